# fio writes at random and reads back what it has written: by calls, mapped, and bypassing the kernel's pages.
common="--size=$((4 * TIMES))m --bs=4k --bsrange=512-64k --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7 --minimal"
fio --name=calls --ioengine=psync --rw=randwrite --numjobs=2 --fsync=200 $common
fio --name=appending --ioengine=psync --rw=write --end_fsync=1 $common
fio --name=mapped --ioengine=mmap --rw=randwrite --bs=4k --size=$((4 * TIMES))m --verify=crc32c --verify_fatal=1 --minimal
fio --name=direct --ioengine=psync --direct=1 --rw=randwrite --bs=16k --size=$((4 * TIMES))m --verify=crc32c --verify_fatal=1 --minimal
