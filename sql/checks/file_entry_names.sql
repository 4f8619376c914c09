-- Entries of directories with names that no path can have: empty, `.` and `..`, with a slash or NUL, or longer than 255 bytes. Whoever
-- fetched them would write elsewhere. The type of the column refuses them. `pgstore check --repair` gives them other names.
SELECT d.store_id, d.parent, d.name, d.ino, d.version_to
  FROM pgstore.dirent d
 WHERE pg_catalog.octet_length(d.name) NOT BETWEEN 1 AND 255
    OR d.name::bytea IN (decode('2e', 'hex'), decode('2e2e', 'hex'))
    OR position(decode('2f', 'hex') IN d.name::bytea) > 0
    OR position(decode('00', 'hex') IN d.name::bytea) > 0;
