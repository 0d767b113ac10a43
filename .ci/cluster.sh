# shellcheck shell=bash
# The suites on a real Kubernetes, for .ci/run, which has `leg` and `legs`.
#
# Where Kubernetes is not cached it is built first. Nothing of that refuses a change: a machine that lacks something, a build that
# does not end, a Kubernetes that does not come up and suites that are not through in time lose this leg alone, and say so. Once
# it is up, suites that fail, and fail again when they are tried a second time, end the run where Kubernetes was cached, or with
# CLUSTER_STRICT=1. Where it was built just now a failure is only listed: they have not been seen to pass on such a machine yet.

RUN_S=$((75 * 60))    # what a whole run may take
COLD_S=$((30 * 60))   # left of it, or nothing is built
PACKAGES_S=$((3 * 60)) # to install packages of Debian
UP_S=$((20 * 60))     # to build what is missing, and to come up
APPLY_S=$((6 * 60))   # to apply and destroy what Terraform can there
WHOLE_S=$((16 * 60))  # to build what FULL=1 adds
SUITES_S=$((20 * 60)) # to start, run the suites and end
LEAST_S=$((10 * 60))  # left of the run, or the suites are not begun
DEMO_S=$((15 * 60))   # left of it, or the demo through KServe is not tried, each time

left_s() { echo $((RUN_S - SECONDS)); }

leave_out() { legs+=("test-cluster left out: $1"); }

# A step of this many seconds. make hands SIGTERM on, and tests.cluster then ends what it started.
within() {
    local name=$1 limit_s=$2
    shift 2
    leg "$name" timeout --kill-after=90 "$limit_s" "$@"
}

cluster_state() { timeout 300 make --no-print-directory cluster-state | tail -n 1; }

# What a cluster takes of Debian's packages and is not here.
cluster_packages() {
    local packages
    packages=$(make --no-print-directory cluster-packages | tail -n 1) || packages=
    if [ -z "$packages" ] || [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then return; fi
    within cluster-packages "$PACKAGES_S" env DEBIAN_FRONTEND=noninteractive sh -c \
        "apt-get -qq update && apt-get -qq install --yes --no-install-recommends $packages" ||
        legs+=("packages for test-cluster could not be installed: $packages")
}

cluster_leg() {
    local state failed=0 applied=0
    cluster_packages
    state=$(cluster_state) || state="make cluster-state failed"
    if [ "$state" = "to be built" ] && [ "$(left_s)" -lt "$COLD_S" ]; then
        leave_out "Kubernetes is to be built, and of $((RUN_S / 60)) minutes fewer than $((COLD_S / 60)) are left"
        return
    fi
    case $state in
    built* | "to be built") ;;
    *)
        leave_out "$state"
        return
        ;;
    esac
    within cluster-up "$UP_S" make cluster-up || failed=$?
    if [ "$(make --no-print-directory terraform-state | tail -n 1)" != ready ]; then
        legs+=("terraform-apply left out: neither Terraform nor OpenTofu is here")
    elif [ "$failed" -eq 0 ]; then
        twice terraform-apply "$APPLY_S" make terraform-apply || applied=$?
    fi
    if [ "$failed" -eq 0 ]; then within cluster-down 120 make cluster-down || failed=$?; fi
    if [ "$failed" -ne 0 ]; then
        leave_out "a Kubernetes does not come up and end on this machine in time; the log above says why"
        return
    fi
    if [ "$applied" -ne 0 ]; then
        refuse terraform-apply || return
    fi
    if [ "$state" != "built, whole" ] && [ "$(left_s)" -ge $((WHOLE_S + SUITES_S)) ]; then
        within cluster-build "$WHOLE_S" make cluster-build FULL=1 || legs+=("FULL=1 left out: what it adds was not built in time")
    fi
    if [ "$(cluster_state)" = "built, whole" ]; then
        PART=$(whole_part)
        export PART
        cluster_suites FULL=1
    else
        cluster_suites
    fi || failed=$?
    case $failed in
    0) twice demo-cluster "$DEMO_S" make demo-cluster || tell demo-cluster ;;
    1) refuse test-cluster ;;
    esac
}

# What failed twice, on a cluster that `state` said was there or not.
refuse() {
    if [ -n "${CLUSTER_STRICT:-}" ] || [ "$state" != "to be built" ]; then return 1; fi
    legs+=("$1 FAILED; on a Kubernetes built just now that refuses nothing without CLUSTER_STRICT=1")
}

# What failed twice, and has not been seen to pass on CI's own machines.
tell() {
    if [ -n "${CLUSTER_STRICT:-}" ]; then return 1; fi
    legs+=("$1 FAILED; that refuses nothing without CLUSTER_STRICT=1")
}

# twice NAME SECONDS CMD…: tried twice at most, where as many are left; what is not through in time is left out.
twice() {
    local name=$1 limit_s=$2 try failed
    shift 2
    for try in 1 2; do
        if [ "$(left_s)" -lt "$limit_s" ]; then
            legs+=("$name left out: of $((RUN_S / 60)) minutes fewer than $((limit_s / 60)) are left at try $try")
            return $((try - 1))
        fi
        failed=0
        within "$name" "$limit_s" "$@" || failed=$?
        case $failed in
        0) return ;;
        124 | 137)
            legs+=("$name left out: it was not through in $((limit_s / 60)) minutes")
            return
            ;;
        esac
        legs+=("$name failed at try $try")
    done
    return 1
}

# What FULL=1 shows beside the rest: in turns, as each takes up to five minutes. Six commits in a row have each group of
# rotation.sh first with both.
whole_part() {
    local parts=(upgrade node-loss) count
    count=$(git rev-list --count HEAD 2>/dev/null) || count=0
    echo "${parts[$((count / 3 % 2))]}"
}

# cluster_suites [FULL=1]: the suites, twice at most. 0: they passed; 1: they failed; 2: they were left out.
cluster_suites() {
    local try failed log=build/ci/test-cluster.log
    mkdir -p "${log%/*}"
    for try in 1 2; do
        if [ "$(left_s)" -lt "$LEAST_S" ]; then
            leave_out "of $((RUN_S / 60)) minutes fewer than $((LEAST_S / 60)) are left at try $try"
            return $((3 - try))
        fi
        failed=0
        within test-cluster "$SUITES_S" .ci/logged "$log" make test-cluster "$@" || failed=$?
        case $failed in
        0)
            legs+=("test-cluster ran ${*:-without FULL=1}${PART:+ PART=$PART}; $(grep -m 1 '^KServe controller' "$log")")
            return
            ;;
        124 | 137)
            leave_out "the suites were not through in $((SUITES_S / 60)) minutes"
            return 2
            ;;
        esac
        legs+=("test-cluster failed at try $try: $(grep -E '^(FAILED|ERROR) ' "$log" | cut -c 1-120 | head -n 5 | paste -sd ';')")
        echo "=== ${legs[-1]}"
    done
    return 1
}
