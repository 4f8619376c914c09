# What make believes of times: all is made once, and again only what depends on what has changed.
cat >Makefile <<'RULES'
all: whole
whole: part1 part2
	cat part1 part2 >whole
	echo whole >>made
part%: source%
	cp $< $@
	echo $@ >>made
RULES
echo one >source1
echo two >source2
make -s -j 2
[ "$(sort made)" = "$(printf 'part1\npart2\nwhole')" ]
make -q

rm made
touch -d "1 hour ago" source1 part1 whole
touch -d "2 hours ago" source2 part2
make -q
touch source2
make -s
[ "$(cat made)" = "$(printf 'part2\nwhole')" ]
make -q
