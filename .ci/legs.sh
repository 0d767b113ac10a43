# shellcheck shell=bash
# The legs of .ci/run: what ran, how long it took, how it ended.
legs=()
LAST_FAILED=.pytest_cache/v/cache/lastfailed
FEW=3
TOLD_LINES=12
LIMIT_S=$((88 * 60)) # of the 90 minutes after which CI ends a run

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

# leg_kept FILE NAME COMMAND...: a leg whose output is in the file too. What a leg leaves behind may hold its output open, so the
# writer of the file is not waited for longer than a moment.
leg_kept() {
    local file=$1 output writer moment status=0
    shift
    exec {output}> >(exec tee "$file")
    writer=$!
    leg "$@" >&"$output" 2>&1 {output}>&- || status=$?
    exec {output}>&-
    for moment in $(seq 50); do
        kill -0 "$writer" 2>/dev/null || break
        sleep 0.1
    done
    return "$status"
}

# A demo judges real deadlines of 50 ms on a machine that others may use too: two more tries, said aloud, where CI's time is enough
# for another one as long as the last. The list of legs has the last lines of a failed try, from which its cause is to be found.
leg_tried() {
    local name=$1 tries began took_s log
    log=$(mktemp)
    for tries in 1 2; do
        began=$SECONDS
        if leg_kept "$log" "$@"; then
            rm -f "$log"
            return
        fi
        took_s=$((SECONDS - began))
        legs+=("$name failed at try $tries, after $took_s s" "$(tail -n "$TOLD_LINES" "$log" | sed 's/^/    | /')")
        if [ $((SECONDS + took_s)) -gt "$LIMIT_S" ]; then
            echo "=== $name failed at try $tries; CI's time is not enough for another"
            return 1
        fi
        echo "=== $name failed at try $tries and is tried again"
    done
    leg "$@"
}

# Tests run beside each other and beside other users of the machine, and a few of them judge real time: a few that fail run once
# more, alone and by name. A name that the list of legs has is a defect to find the cause of; one that fails twice refuses the
# change.
leg_tests() {
    local name=$1 failed
    shift
    if leg "$name" "$@"; then return; fi
    failed=$(python3 -c 'import json, sys; print(*json.load(open(sys.argv[1])), sep="\n")' "$LAST_FAILED") || return 1
    if [ -z "$failed" ] || [ "$(wc -l <<<"$failed")" -gt "$FEW" ]; then return 1; fi
    while read -r test; do
        echo "=== $name failed at $test, which runs again alone"
        legs+=("$name failed at first at $test")
    done <<<"$failed"
    leg "$name-again" "$@" TEST_FLAGS="--last-failed --last-failed-no-failures none -n 0"
}
