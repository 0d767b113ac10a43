# shellcheck shell=bash
# Legs that take turns, for .ci/run, which has `leg_tried` and `legs`: one of three runs each time, by the number of the commit,
# so that three runs in a row have run all of them. Which ones did not run is told. The two drills and the fuzz have not been seen
# to pass on CI's own machines: until then what fails of them is told, and refuses nothing without DRILLS_STRICT=1.

ROTATION=(attack disk handbook)

rotating_leg() {
    local turn=$(($(git rev-list --count HEAD) % ${#ROTATION[@]})) name
    for name in "${ROTATION[@]}"; do
        if [ "$name" != "${ROTATION[$turn]}" ]; then legs+=("$name left out: it takes turns with ${ROTATION[$turn]}"); fi
    done
    case ${ROTATION[$turn]} in
    attack)
        leg_told drill-attack 900 make drill-attack
        leg_told fuzz 300 make fuzz FUZZ_SECONDS=120
        ;;
    disk) disk_leg ;;
    handbook) handbook_leg ;;
    esac
}

# leg_told NAME SECONDS CMD…: once, and no longer than that, where as many are left of the run.
leg_told() {
    local name=$1 limit_s=$2
    shift 2
    if no_time_for "$name" "$limit_s"; then return; fi
    if leg "$name" timeout --kill-after=60 "$limit_s" "$@"; then return; fi
    if [ -n "${DRILLS_STRICT:-}" ]; then return 1; fi
    legs+=("$name FAILED; that refuses nothing without DRILLS_STRICT=1")
}

# Root alone can put a home on a small disk of its own.
disk_leg() {
    if [ "$(id -u)" -eq 0 ]; then
        leg_told drill-disk 900 make drill-disk
    else
        legs+=("drill-disk left out: only root mounts a small disk")
    fi
}

# no_time_for NAME SECONDS: says so where fewer are left of the run (cluster.sh has `left_s`).
no_time_for() {
    if [ "$(left_s)" -ge "$2" ]; then return 1; fi
    legs+=("$1 left out: of $((RUN_S / 60)) minutes fewer than $(($2 / 60)) are left")
}

handbook_leg() {
    if no_time_for demo-handbook 600; then return; fi
    if [ -d ../shared/data/handbook ]; then
        leg_tried demo-handbook make demo DEMO_FLAGS=--fresh TRANSACTIONS=../shared/data/handbook
    else
        legs+=("demo-handbook left out: ../shared/data/handbook is not here")
    fi
}
