# A directory of many files.
count=$((200 * TIMES))
mkdir many
"$PYTHON" -c 'import sys; [open(f"many/file{number}", "w").close() for number in range(int(sys.argv[1]))]' "$count"
[ "$(ls -l many | tail -n +2 | wc -l)" -eq "$count" ]
[ "$(ls -lU many | sort -u | tail -n +2 | wc -l)" -eq "$count" ]
[ "$(find many -type f -name 'file*7' | wc -l)" -eq $((count / 10)) ]
rm many/file*7
[ "$(ls many | wc -l)" -eq $((count / 10 * 9)) ]
rm -r many
