# shellcheck shell=bash
# The legs that follow the checks, for .ci/run, which has `leg_tried`, `leg_tests`, `legs` and `left_s`: three groups that take
# turns to be the first, by the number of the commit, and the others after it. A leg is begun where as many seconds are left as it
# takes on a slow machine: a quick one runs them all, a slow one a group each time, so that three runs in a row have run every leg.
# The list of legs names what did not run. The drills of attacks and of a full disk, the fuzz, the tutorial, the guide, load tests,
# Spark and PyTorch (5.6 GB) have not been seen to pass on CI's own machines: until then the list names what fails of them, and
# that refuses nothing without DRILLS_STRICT=1.

ROTATION=(product servers cluster)

rotating_legs() {
    local count turn
    count=$(git rev-list --count HEAD)
    for turn in 0 1 2; do
        "group_${ROTATION[$(((count + turn) % 3))]}"
    done
}

group_product() {
    in_time demo 660 leg_tried demo make demo DEMO_FLAGS=--fresh
    in_time test-train 600 leg_tests test-train make test-train
    in_time drill-kill 780 leg_tried drill-kill make drill-kill
    in_time drill-restore 420 leg_tried drill-restore make drill-restore
    in_time drill-idempotency 120 leg_tried drill-idempotency make drill-idempotency DRILL_FLAGS="--count 20000"
    legs+=("drill-scoring left out: make test runs seven of its faults (tests/e2e/test_scoring_drill.py)")
    legs+=("drill-client left out: make test runs four of its faults (tests/contract/client/test_client_library.py)")
    legs+=("bench-scoring left out: its figures need a quiet machine, and judge nothing")
    if [ "$(id -u)" -eq 0 ]; then
        in_time drill-disk 900 leg_told drill-disk 900 make drill-disk
    else
        legs+=("drill-disk left out: only root mounts a small disk")
    fi
    if command -v java >/dev/null; then
        in_time test-spark 600 leg_told test-spark 600 make test-spark
    else
        legs+=("test-spark left out: Java is not here")
    fi
}

group_servers() {
    in_time test-servers 1400 leg_tests test-servers make test-servers
    if command -v java >/dev/null && command -v mvn >/dev/null; then
        in_time drill-async 300 leg_tried drill-async make drill-async DRILL_FLAGS="--messages 10000 --kills 5"
    else
        legs+=("drill-async left out: Java and Maven are not here")
    fi
    if command -v go >/dev/null; then
        in_time test-load 420 leg_told test-load 420 make test-load
    else
        legs+=("test-load left out: Go is not here")
    fi
    # Prometheus is Debian's; the others are built once, in ten to eleven minutes of one core (of that Jaeger six).
    if command -v apt-get >/dev/null && command -v go >/dev/null; then
        in_time test-observability 1200 leg_tried test-observability make test-observability
    else
        legs+=("test-observability left out: apt-get or Go is not here")
    fi
    in_time drill-attack 900 leg_told drill-attack 900 make drill-attack
    in_time demo-team 900 leg_tried demo-team make demo MODEL=credit-default DEMO_FLAGS=--fresh
    in_time fuzz 300 leg_told fuzz 300 make fuzz FUZZ_SECONDS=120
}

group_cluster() {
    in_time test-terraform 900 terraform_leg
    cluster_leg
    in_time test-page 480 page_leg
    in_time docs 240 leg docs make test-docs
    in_time test-tutorial 1200 leg_told test-tutorial 1380 make test-tutorial
    in_time test-guide 600 leg_told test-guide 900 make test-guide TEMPLATE="$(guide_template)"
    if [ "$(df --output=avail -BG . | tail -1 | tr -dc 0-9)" -ge 20 ]; then
        in_time test-torch 600 leg_told test-torch 600 make test-torch
        # the other team's demo, here because it is fitted with PyTorch
        in_time demo-merchant 900 leg_told demo-merchant 1080 make demo MODEL=merchant-category DEMO_FLAGS=--fresh
    else
        legs+=("test-torch left out: PyTorch takes 6 GB, and fewer than 20 are free here")
        legs+=("demo-merchant left out: it is fitted with PyTorch, which takes 6 GB, and fewer than 20 are free here")
    fi
    if [ -d ../shared/data/handbook ]; then
        in_time demo-handbook 900 leg_tried demo-handbook make demo DEMO_FLAGS=--fresh TRANSACTIONS=../shared/data/handbook
    else
        legs+=("demo-handbook left out: ../shared/data/handbook is not here")
    fi
}

# The templates of the guide take turns, as each takes up to a quarter of an hour: one in each run.
guide_template() {
    local templates=(sklearn lightgbm catboost xgboost)
    echo "${templates[$(($(git rev-list --count HEAD) % 4))]}"
}

# in_time NAME SECONDS CMD…: runs it where as many are left of the run (cluster.sh has `left_s`), and says so where not.
in_time() {
    local name=$1 takes_s=$2
    shift 2
    if [ "$(left_s)" -ge "$takes_s" ]; then
        "$@"
    else
        legs+=("$name left out: of $((RUN_S / 60)) minutes fewer than $((takes_s / 60)) are left")
    fi
}

# leg_told NAME SECONDS CMD…: once, and no longer than that.
leg_told() {
    local name=$1 limit_s=$2
    shift 2
    if leg "$name" timeout --kill-after=60 "$limit_s" "$@"; then return; fi
    if [ -n "${DRILLS_STRICT:-}" ]; then return 1; fi
    legs+=("$name FAILED; that refuses nothing without DRILLS_STRICT=1")
}
