# An archive of sources, extracted and compared; made by tar, read from a pipe, and in place.
tar cf sources.tar --owner="$(id -u)" --group="$(id -g)" -C "$SOURCES" .
mkdir extracted
tar xpf sources.tar -C extracted
diff -r "$SOURCES" extracted
tar df sources.tar -C extracted # compares modes and times as well

tar czf - -C extracted . | tar xzpf - --one-top-level=again
tar df sources.tar -C again

echo more >more
tar rf sources.tar more
[ "$(tar xOf sources.tar more)" = more ]
