# shellcheck shell=bash
# The legs of .ci/run: what ran, how long it took, how it ended.
legs=()

tell_legs() {
    echo "=== legs"
    printf '%s\n' "${legs[@]}"
}

leg() {
    local name=$1 began=$SECONDS
    shift
    echo "=== $name: $*"
    "$@" || return
    legs+=("$name $((SECONDS - began)) s")
}

# A demo judges real deadlines of 50 ms on a machine that others may use too: two more tries, said aloud.
leg_tried() {
    local name=$1 tries
    for tries in 1 2; do
        if leg "$@"; then return; fi
        echo "=== $name failed at try $tries and is tried again"
        legs+=("$name failed at try $tries")
    done
    leg "$@"
}
