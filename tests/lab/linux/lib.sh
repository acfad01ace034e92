# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# What scenarios are made of. A function that fails ends the scenario, unless it is asked about.

# say WORDS: a line for the host's judge if it starts with @, else for a person.
say()
{
    echo "$*"
}

# step WORDS: what the scenario is at, for whoever reads the log.
step()
{
    read -r uptime _ </proc/uptime
    echo "> $uptime $*" >&2
}

die()
{
    echo "FAIL: $*"
    exit 1
}

# until_true SECONDS COMMAND...: waits until it succeeds; PATIENCE times as long on a slow host.
until_true()
{
    read -r now _ </proc/uptime
    patience=$((${now%.*} + $1 * ${PATIENCE:-1}))
    shift
    while ! "$@" >/dev/null 2>&1; do
        read -r now _ </proc/uptime
        if [ "${now%.*}" -gt "$patience" ]; then
            echo "FAIL: in vain: $*"
            return 1
        fi
        usleep 200000
    done
}

# port NAME: the device of one of QEMU's virtio-serial ports.
port()
{
    for dir in /sys/class/virtio-ports/*; do
        if [ "$(cat "$dir/name")" = "$1" ]; then
            echo "/dev/${dir##*/}"
            return
        fi
    done
    die "no virtio-serial port $1"
}

# The host's answers come on file 9. (Empty lines are there to wake the machine up, and must be taken,
# or there is no room for more.)
exec_control()
{
    mkfifo /run/control
    while read -r word; do
        [ -z "$word" ] || echo "$word"
    done <"$(port control)" >/run/control &
    exec 9</run/control
}

# ours: does this Xen have the series?
ours()
{
    [ "$OURS" = 1 ]
}

# rand MAX: a number below MAX; the same sequence for the same SEED.
rand()
{
    SEED=$(((SEED * 1103515245 + 12345) & 0x7fffffff))
    RANDOM_NUMBER=$(((SEED >> 8) % $1))
}

# --- Guests -------------------------------------------------------------------

# guest NAME MIB [CONFIG LINES]: starts a PVH Linux guest and waits until it answers. With
# PRELOAD=/usr/lib/passthrough.so its memory is in the IOMMU's tables, too.
guest()
{
    step "guest $1 $2"
    name=$1
    mib=$2
    shift 2
    dd if=/dev/zero of="/tmp/$name.disk" bs=1M count=0 seek=8 2>/dev/null
    {
        cat <<END
name = "$name"
type = "pvh"
kernel = "/boot/vmlinux"
ramdisk = "/boot/guest.img"
cmdline = "console=hvc0 loglevel=4 tsc=reliable init_on_alloc=0 apparmor=0 audit=0 mitigations=off nokaslr cryptomgr.notests $GUEST_WORDS"
memory = $mib
maxmem = $mib
tsc_mode = "native"
on_crash = "destroy"
disk = [ "/tmp/$name.disk,raw,xvda,rw" ]
vif = [ "script=vif-lab" ]
END
        printf '%s\n' "$@"
    } >"/tmp/$name.cfg"
    LD_PRELOAD=$PRELOAD xl create -q "/tmp/$name.cfg" >/results/xl/create-"$name" 2>&1 ||
        { cat /results/xl/create-"$name"; die "xl create $name"; }
    answers "$name"
}

# test_guest NAME TEST MIB [WORDS [-p]]: starts one of the test guests (tests/xtf), or with -p has it wait, and
# does not wait for it.
test_guest()
{
    cat >"/tmp/$1.cfg" <<END
name = "$1"
type = "pvh"
kernel = "/boot/xtf/test-hvm64-$2"
cmdline = "$4"
memory = $3
on_crash = "destroy"
END
    # shellcheck disable=SC2086 # a word or none
    xl create -q $5 "/tmp/$1.cfg" >/tmp/create.log 2>&1 || { cat /tmp/create.log; die "xl create $1"; }
}

# domid NAME
domid()
{
    xl domid "$1"
}

path()
{
    echo "/local/domain/$(domid "$1")/data"
}

# answers NAME: waits until the guest is up (again).
answers()
{
    until_true 180 xenstore-exists "$(path "$1")/up" || die "guest $1 does not come up"
}

# begin NAME COMMAND: gives the guest something to do, and goes on.
begin()
{
    step "ask $*"
    data=$(path "$1")
    # Never the same again, not even for a guest that was restored.
    number=$(($(cat /tmp/number 2>/dev/null || echo 0) + 1))
    echo $number >/tmp/number
    xenstore-write "$data/number" $number
    shift
    xenstore-write "$data/command" "$number $*"
}

answered()
{
    case $(xenstore-read "$data/answer" 2>/dev/null) in
    "$number "*) return 0 ;;
    esac
    return 1
}

# result NAME: waits for what the last command has printed; fails if the command has.
result()
{
    data=$(path "$1")
    number=$(xenstore-read "$data/number")
    until_true "${LIMIT:-200}" answered || die "guest $1 does not answer: $(xenstore-read "$data/command")"
    set -- $(xenstore-read "$data/answer")
    shift
    status=$1
    shift
    echo "$*"
    return "$status"
}

# ask NAME COMMAND: has the guest do something, and prints what came of it.
ask()
{
    begin "$@"
    result "$1"
}

# must NAME COMMAND: the same, and it has to succeed.
must()
{
    answer=$(ask "$@") || die "guest $*: $answer"
    echo "$answer"
}

# current NAME: pages that the domain has now, in KiB.
current()
{
    xl list "$1" | awk 'NR == 2 { print $3 }'
}

at_most()
{
    [ "$(current "$1")" -le "$2" ]
}

at_least()
{
    [ "$(current "$1")" -ge "$2" ]
}

# balloon NAME MIB: sets the target and waits until the guest has come there. (Linux stops a few
# hundred KiB from a target, which xl prints as a whole MiB less or more.)
balloon()
{
    step "balloon $*"
    was=$(current "$1")
    xl mem-set "$1" "$2" || die "xl mem-set $1 $2"
    if [ "$was" -gt "$2" ]; then
        until_true 120 at_most "$1" $(($2 + 1)) || die "guest $1 has $(current "$1") MiB, and should have $2"
    else
        until_true 120 at_least "$1" $(($2 - 1)) || die "guest $1 has $(current "$1") MiB, and should have $2"
    fi
}

# gone NAME: waits until nothing is left of the domain.
gone()
{
    step "gone $1"
    until_true 120 no_domain "$1" || die "domain $1 is still there"
}

no_domain()
{
    ! xl domid "$1"
}

no_zombies()
{
    [ "$(xl list | awk 'NR > 1' | wc -l)" = 1 ]
}

# --- Looking ------------------------------------------------------------------

# settle NAME: waits until Xen has done with a guest what it can. Stock Xen does nothing.
settle()
{
    step "settle $1"
    ours || { sleep "${STOCK_SLEEP:-1}"; return; }
    inside settle "$(domid "$1")" --limit $((${SETTLE:-150} * ${PATIENCE:-1})) --quiet "${QUIET:-2}" || die "guest $1 does not settle"
}

# kept_and_settled NAME: is its data right after all that was done, and is nothing being done any more? (What
# is pinned is tried again and again, later each time; a look in the middle of that could not tell why a region
# is not whole.)
kept_and_settled()
{
    settle "$1"
    must "$1" kept
    QUIET=1 settle "$1"
}

# mode NAME MODE: off, in-place or full; default: as Xen's command line says.
mode()
{
    ! ours || inside mode "$(domid "$1")" "$2" || die "mode $2 of guest $1"
}

# regions KIND NAME: how many regions of a kind (W b h . o) Xen says that a guest has.
regions()
{
    ours || return 0
    inside map "$(domid "$2")" | grep -o "[$1][0-9]*" | tr -d "$1" | awk '{ n += $1 } END { print n + 0 }'
}

# kind NAME FRAME: of which kind the region is, in which a guest frame is.
kind()
{
    ours || return 0
    inside map "$(domid "$1")" | awk -v left=$(($2 / 512)) '
        { while (match($0, /^[^0-9][0-9]+/)) {
            left -= substr($0, 2, RLENGTH - 1)
            if (left < 0) { print substr($0, 1, 1); exit }
            $0 = substr($0, RLENGTH + 1)
        } }'
}

nothing_broken()
{
    [ "$(regions b "$1")" -le "${2:-0}" ]
}

# heals NAME SECONDS [REGIONS]: waits until no region is broken, or so many at most.
heals()
{
    step "heals $*"
    ! ours || until_true "$2" nothing_broken "$1" "$3" || die "guest $1 has $(regions b "$1") broken regions"
}

# look NAME TAG: the host walks the guest's page table in the machine's memory, and compares that
# with what Xen's own map says; the guest is paused for it.
look()
{
    step "look $*"
    id=$(domid "$1") || die "no domain $1 to look at"
    xl pause "$1"
    if ours; then
        # Xen would go on, between what is read here and what the host reads.
        mode=$(inside mode "$id") && inside mode "$id" off || die "look $2: the mode of $1"
        audit=$(inside audit "$id") || die "look $2: the audit of $1 found something"
        say "@audit $2 $id $audit"
        say "@counters $2 $id $(inside counters "$id")"
        say "@domctl $2 $id $(inside map "$id")"
    fi
    # H_CR3 is printed with each VMCB.
    xl debug-keys v
    say "@look $2 $id"
    read -r word <&9
    ! ours || inside mode "$id" "$mode" || die "look $2: the mode of $1"
    xl unpause "$1"
    [ "$word" = ok ] || die "look $2: the host says $word"
}

# free_pages: the machine's free pages, when nothing is being freed any more.
free_pages()
{
    last=
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        now=$(inside free)
        [ "$now" != "$last" ] || break
        last=$now
        usleep 400000
    done
    echo "${now%% *}"
}

# --- Traces -------------------------------------------------------------------

start_trace()
{
    TRACE=1
    xentrace -D -e 0x10f000 -S 256 /tmp/trace.bin 2>/results/xentrace.log &
    xentrace=$!
    usleep 300000
    kill -0 $xentrace || die "xentrace: $(cat /results/xentrace.log)"
}

stop_trace()
{
    [ -n "$xentrace" ] || return 0
    kill $xentrace
    wait $xentrace
    xentrace=
    mv /tmp/trace.bin /results/trace.bin
}
