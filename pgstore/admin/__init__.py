"""What administrators do, as functions that return data: the command line renders it, tests and other views read it.

`status.status_of` tells what a database holds, `check.run_checks` whether it is damaged, `repair.repair` mends what has one certain
repair, `gc.collect` deletes what is not needed any more.
"""
