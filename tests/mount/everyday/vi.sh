# An editor itself, with a swap file and backups of both kinds.
printf 'one\ntwo\n' >notes
chmod 640 notes
for copying in yes no auto; do
    vi -N -u NONE -i NONE -es -c "set backupskip= backup backupcopy=$copying" -c '%s/one/one one/' -c 'normal Gothree' -c wq notes
    vi -N -u NONE -i NONE -es -c 'set backupskip= backup' -c '%s/one one/one/' -c '$d' -c wq notes
    [ "$(cat notes)" = "$(printf 'one\ntwo')" ]
    [ "$(stat -c %a notes)" = 640 ]
done
[ "$(cat notes~)" = "$(printf 'one one\ntwo\nthree')" ]
sed -i 's/two/2/' notes
[ "$(cat notes)" = "$(printf 'one\n2')" ]
[ "$(ls -A | sort | tr '\n' ' ')" = "notes notes~ " ]
