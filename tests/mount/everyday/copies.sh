# Trees that are copied, moved, found and changed.
cp -a "$SOURCES" original
printf '#!/bin/sh\necho ran\n' >original/program
chmod 750 original/program
ln -s program original/link
ln -s missing original/dangling
ln original/program original/other-name
mkfifo original/fifo
touch -d "2001-02-03 04:05:06.789" original/old
touch -d "1969-12-31 23:59:58.5 UTC" original/very-old
touch -d "2100-01-01" original/new
mkdir original/empty

cp -a original copy
diff -r --no-dereference --exclude=fifo original copy
[ -p copy/fifo ]
[ "$(stat -c %i copy/program)" = "$(stat -c %i copy/other-name)" ]
[ "$(stat -c %Y.%y copy/very-old)" = "$(stat -c %Y.%y original/very-old)" ]
[ "$(copy/link)" = ran ]

rsync -aH original/ synced
rsync -aH --itemize-changes original/ synced >second
[ ! -s second ]
rsync -aHc --itemize-changes original/ synced >third
[ ! -s third ]
echo more >>synced/program
rsync -aH --inplace --itemize-changes original/ synced >fourth
grep -q '^>f.*\(program\|other-name\)$' fourth
cmp original/program synced/program

"$PYTHON" -c 'import shutil; shutil.copytree("original/empty", "e"); shutil.copytree("copy", "by-python", symlinks=True,
    ignore=shutil.ignore_patterns("fifo"))'
diff -r --no-dereference --exclude=fifo original by-python

[ "$(find original | wc -l)" -eq "$(find copy | wc -l)" ]
[ "$(find original -links 2 -type f | wc -l)" -eq 2 ]
[ "$(find copy -newermt 2099-01-01 | wc -l)" -eq 1 ]
find copy -name "*.py" -print0 | xargs -0 grep -l import >/dev/null
find copy -empty -type d | grep -q empty

mkdir target
mv copy target/moved
[ ! -e copy ]
mv -T by-python target/renamed
diff -r --no-dereference --exclude=fifo original target/moved
chmod -R go-rwx target
[ -z "$(find target ! -type l -perm /077)" ]
touch -d "2002-02-02" target/moved
[ "$(stat -c %Y target/moved)" = "$(date -d 2002-02-02 +%s)" ]
mv target/moved "$HOME/abroad" # to another file system, and back
mv "$HOME/abroad" returned
diff -r --no-dereference --exclude=fifo original returned
rm -rf target returned
[ ! -e target ]
