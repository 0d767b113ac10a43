# shellcheck shell=bash
# The page and the report in Chromium, judged by axe-core, for .ci/run, which has `leg_tried` and `legs`.
#
# Where Chromium is not here, root on a Debian gets its package first. A machine where that can't be done loses this leg alone,
# and says so. With a Chromium that was here already the leg refuses a change; with one that was installed just now, on a
# machine whose fonts nobody has seen the pages in, a failure is only listed.

INSTALL_S=$((5 * 60))

page_leg() {
    if command -v chromium >/dev/null; then
        leg_tried test-page make test-page
        return
    fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        legs+=("test-page left out: Chromium is not here, and only root on Debian could install it")
        return
    fi
    if ! install_chromium; then
        legs+=("test-page left out: apt-get could not install chromium in $((INSTALL_S / 60)) minutes; the log above says why")
        return
    fi
    if ! leg_tried test-page make test-page; then
        legs+=("test-page failed, with a Chromium that was installed just now; that refuses nothing")
    fi
}

install_chromium() {
    local got="apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium"
    leg chromium timeout --kill-after=30 "$INSTALL_S" env DEBIAN_FRONTEND=noninteractive sh -c "$got" || return
    command -v chromium >/dev/null
}
