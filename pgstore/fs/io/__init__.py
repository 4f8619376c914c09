"""Open files.

`open_file` has the three kinds: fixed contents, staged contents, and files that are written in place. `file_object` and
`async_file_object` make Python's file objects of them, and `opening` makes the public `open` of both. `new_file` decides which
file a path that is opened for writing leads to.

What a file does is an operation of `open_file.OpenFile`, written once. How it looks to programs (positions, buffers, text) is a
method of the file objects, of both.
"""
