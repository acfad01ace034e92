# SPDX-License-Identifier: GPL-2.0-only
# A storm of MINUTES: three guests with data to keep are ballooned, saved, restored and migrated in
# seeded order, and others come, exchange memory and die.
read -r start _ </proc/uptime
end=$((${start%.*} + MINUTES * 60))
for name in a b c; do
    guest $name 144
    must $name keep 16
    must $name busy 1000000
done
ballooned=0 saved=0 migrated=0 died=0 checked=0
while read -r now _ </proc/uptime; [ "${now%.*}" -lt $end ]; do
    rand 3
    case $RANDOM_NUMBER in
    0) name=a ;;
    1) name=b ;;
    *) name=c ;;
    esac
    rand 10
    case $RANDOM_NUMBER in
    0 | 1 | 2 | 3)
        balloon $name 104
        balloon $name 144
        ballooned=$((ballooned + 1))
        ;;
    4 | 5)
        xl save $name /tmp/$name.save >/dev/null 2>&1 || die "xl save $name"
        gone $name
        xl restore -e /tmp/$name.save >/dev/null 2>&1 || die "xl restore $name"
        rm /tmp/$name.save
        saved=$((saved + 1))
        ;;
    6)
        xl migrate -s '' $name 'xl migrate-receive' >/tmp/migrate.log 2>&1 ||
            { cat /tmp/migrate.log; die "xl migrate $name"; }
        migrated=$((migrated + 1))
        ;;
    *)
        test_guest x coalesce-exchange 64 "seed=$died"
        rand 3000
        usleep $((RANDOM_NUMBER * 1000))
        xl destroy x 2>/dev/null
        gone x
        died=$((died + 1))
        ;;
    esac
    must $name kept
    checked=$((checked + 1))
    if [ $((checked % 20)) = 0 ]; then
        say "= $(((${now%.*} - ${start%.*}) / 60)) min: $ballooned ballooned, $saved saved and restored, $migrated migrated, $died died; all data right"
    fi
done
# As long as one of them is busy, Xen may have no idle time for the others.
for name in a b c; do
    say "= $name: $(must $name idle)"
done
for name in a b c; do
    settle $name
    must $name kept
    look $name end-$name
    xl destroy $name
    gone $name
done
until_true 60 no_zombies || die "a zombie is left: $(xl list)"
say "= survived: $ballooned ballooned, $saved saved and restored, $migrated migrated, $died died; $checked checks of data"
