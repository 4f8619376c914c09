# A repository from its first commit to its clone.
git init -q repository
cd repository
for number in $(seq $((40 * TIMES))); do
    mkdir -p "d$((number % 20))"
    echo "file $number" >"d$((number % 20))/f$number"
done
git add -A
git commit -qm first
[ -z "$(git status --porcelain)" ]

echo changed >>d1/f1
git mv d2/f2 d3/moved
chmod +x d1/f21
[ "$(git status --porcelain | wc -l)" -eq 3 ]
git commit -qam second
git branch aside HEAD^
git checkout -q aside
[ "$(cat d1/f1)" = "file 1" ]
git merge -q main

git gc -q
git fsck --strict
git clone -q . ../clone
diff -r --exclude=.git . ../clone
git clone -q "file://$PWD" ../clone-by-packs
diff -r --exclude=.git . ../clone-by-packs
[ -z "$(git -C ../clone status --porcelain)" ]
git worktree add -q ../worktree HEAD^
git stash list
