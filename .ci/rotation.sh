# shellcheck shell=bash
# Legs that take turns, for .ci/run, which has `leg_tried` and `legs`: one of three runs each time, by the number of the commit,
# so that three runs in a row have run all of them. Which ones did not run is told.

ROTATION=(attack disk handbook)

rotating_leg() {
    local turn=$(($(git rev-list --count HEAD) % ${#ROTATION[@]})) name
    for name in "${ROTATION[@]}"; do
        if [ "$name" != "${ROTATION[$turn]}" ]; then legs+=("$name left out: it takes turns with ${ROTATION[$turn]}"); fi
    done
    case ${ROTATION[$turn]} in
    attack)
        leg_tried drill-attack make drill-attack
        leg_tried fuzz make fuzz FUZZ_SECONDS=120
        ;;
    disk) disk_leg ;;
    handbook) handbook_leg ;;
    esac
}

# Root alone can put a home on a small disk of its own.
disk_leg() {
    if [ "$(id -u)" -eq 0 ]; then
        leg_tried drill-disk make drill-disk
    else
        legs+=("drill-disk left out: only root mounts a small disk")
    fi
}

handbook_leg() {
    if [ -d ../shared/data/handbook ]; then
        leg_tried demo-handbook make demo DEMO_FLAGS=--fresh TRANSACTIONS=../shared/data/handbook
    else
        legs+=("demo-handbook left out: ../shared/data/handbook is not here")
    fi
}
