-- Who may do what in the schema pgstore. Run by every `pgstore migrate` and printed by `pgstore migrate --sql`; whoever may
-- migrate may also run it by hand, as often as wanted:
--
--     psql -v ON_ERROR_STOP=1 -1 -c "SELECT set_config('pgstore.writer', 'app', true)" -f roles.sql mydatabase
--
-- pgstore_reader   sees everything but what secrets hold: tables, views, positions of sequences; may call functions that only read
-- pgstore_writer   also uses every store; it cannot change tables, nor what says which version they have
-- pgstore_owner    owns everything; its members may migrate
--
-- They are roles without login: GRANT pgstore_writer TO your_login. They are made here if the current role may create roles,
-- else used if they exist, else left out. Other names: the settings pgstore.reader, pgstore.writer and pgstore.owner, as above.
-- Roles belong to the whole cluster, so a member has its rights in each of its databases that has a pgstore: choose other names
-- to part them. With the setting pgstore.roles = off nobody is granted anything.
--
-- Everybody else has no rights. PUBLIC loses what PostgreSQL gives it, and every role what ALTER DEFAULT PRIVILEGES gives it on
-- whatever is made in this database, as hosted ones do for their web roles. What an administrator has granted to another role by
-- hand stays; `pgstore migrate` and `pgstore status` name such roles.
--
-- Rights are granted on what exists, again after every migration. Not by ALTER DEFAULT PRIVILEGES: that follows the role that
-- creates, cannot take EXECUTE on functions from PUBLIC within one schema, and outlives the schema.

DO $roles$
DECLARE
    -- Types are looked up along the path of whoever runs this, before the first line sets another.
    path       pg_catalog.text := pg_catalog.current_setting('search_path');
    reader     pg_catalog.name;
    writer     pg_catalog.name;
    owner      pg_catalog.name;
    heir       pg_catalog.name;  -- who is to own what there is
    keeper     pg_catalog.name;  -- who owns the tables, which a program may use
    members_of pg_catalog.oid;   -- the owner role, where it is to be used
    is_off     pg_catalog.bool;
    me         pg_catalog.pg_roles%ROWTYPE;
    since_16   pg_catalog.bool;  -- membership has SET and INHERIT of its own
    may_become pg_catalog.text;
    role_name  pg_catalog.name;
    object     pg_catalog.record;
BEGIN
    -- Nobody's own function shall stand for one of PostgreSQL's, run as an administrator.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    reader := coalesce(nullif(current_setting('pgstore.reader', true), ''), 'pgstore_reader');
    writer := coalesce(nullif(current_setting('pgstore.writer', true), ''), 'pgstore_writer');
    owner := coalesce(nullif(current_setting('pgstore.owner', true), ''), 'pgstore_owner');
    me := (SELECT r FROM pg_roles r WHERE r.rolname = current_user);
    since_16 := current_setting('server_version_num')::integer >= 160000;
    may_become := CASE WHEN since_16 THEN 'SET' ELSE 'MEMBER' END;

    FOR object IN
        WITH part AS (
             SELECT 'SCHEMA' AS kind, 'n' AS default_kind, 'pgstore' AS name, n.nspowner AS owner,
                    coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl
               FROM pg_namespace n
              WHERE n.nspname = 'pgstore'
              UNION ALL
             SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END,
                    c.oid::regclass::text, c.relowner, c.relacl
               FROM pg_class c
              WHERE c.relnamespace = 'pgstore'::regnamespace
                AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
              UNION ALL
             SELECT 'ROUTINE', 'f', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
               FROM pg_proc p
              WHERE p.pronamespace = 'pgstore'::regnamespace
              UNION ALL
             SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, 'T', t.oid::regtype::text, t.typowner,
                    coalesce(t.typacl, acldefault('T', t.typowner))
               FROM pg_type t
              WHERE t.typnamespace = 'pgstore'::regnamespace
                AND t.typtype IN ('d', 'e', 'r')  -- row types have the rights of their tables
        )
        SELECT DISTINCT p.kind, p.name, a.grantee
          FROM part p
         CROSS JOIN LATERAL aclexplode(p.acl) a
         WHERE a.grantee <> p.owner
           AND pg_has_role(p.owner, 'USAGE')
           AND (a.grantee = 0
                OR EXISTS (SELECT
                             FROM pg_default_acl d
                            CROSS JOIN LATERAL aclexplode(d.defaclacl) e
                            WHERE d.defaclobjtype::text = p.default_kind AND e.grantee = a.grantee))
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s CASCADE', object.kind, object.name,
                       CASE object.grantee WHEN 0 THEN 'PUBLIC' ELSE object.grantee::regrole::text END);
    END LOOP;

    is_off := coalesce(current_setting('pgstore.roles', true), '') = 'off';

    -- Roles. Another database of the cluster may be doing the same: who comes second waits for the first and then finds the role.
    FOREACH role_name IN ARRAY ARRAY[reader, writer, owner] LOOP
        IF NOT is_off AND to_regrole(quote_ident(role_name)) IS NULL AND (me.rolcreaterole OR me.rolsuper) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN
                NULL;
            END;
        END IF;
    END LOOP;

    -- Ownership, so that any member of the owner role may migrate later. It goes over only if who has it now keeps all rights, as a
    -- superuser or a member that inherits: the current role, and the role that owns the tables, which a program may use. That one
    -- stays the owner else, also where no roles are wanted, and gets what a superuser has made in its place. Nothing is taken over
    -- from anybody else: a function of theirs would run with the rights of its new owner. Since PostgreSQL 16 the maker of a role
    -- only administers it, and becomes a member here.
    keeper := (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = to_regclass('pgstore.schema_revision'));
    heir := CASE WHEN is_off THEN keeper END;
    IF NOT is_off AND to_regrole(quote_ident(owner)) IS NOT NULL THEN
        IF NOT (pg_has_role(owner, 'USAGE') AND pg_has_role(owner, may_become)) AND (me.rolinherit OR since_16) THEN
            BEGIN
                EXECUTE format('GRANT %I TO %I', owner, current_user)
                        || CASE WHEN since_16 THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END;
            EXCEPTION WHEN insufficient_privilege OR unique_violation OR internal_error OR invalid_grant_operation THEN
                NULL;  -- not ours to give; or "tuple concurrently updated" by the same in another database
            END;
        END IF;

        EXECUTE format('GRANT ALL ON SCHEMA pgstore TO %I', owner);
        EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA pgstore TO %I', owner);
        EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA pgstore TO %I', owner);
        EXECUTE format('GRANT ALL ON ALL ROUTINES IN SCHEMA pgstore TO %I', owner);

        members_of := to_regrole(quote_ident(owner));
        heir := CASE WHEN pg_has_role(keeper, members_of, 'USAGE') THEN owner ELSE coalesce(keeper, owner) END;
    END IF;
    IF heir IS NOT NULL THEN
        IF pg_has_role(heir, 'USAGE') AND pg_has_role(heir, may_become) AND has_schema_privilege(heir, 'pgstore', 'CREATE') THEN
            FOR object IN
                SELECT 'TABLE' AS kind, c.oid::regclass::text AS name
                  FROM pg_class c
                 WHERE c.relnamespace = 'pgstore'::regnamespace
                   AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')  -- ALTER TABLE takes them all
                   AND pg_get_userbyid(c.relowner) <> heir
                   AND pg_has_role(c.relowner, 'USAGE')
                   AND (c.relowner = me.oid OR coalesce(pg_has_role(c.relowner, members_of, 'USAGE'), false))
                   AND NOT EXISTS (SELECT  -- sequences of columns follow their table
                                     FROM pg_depend d
                                    WHERE d.classid = 'pg_class'::regclass
                                      AND d.objid = c.oid
                                      AND d.deptype IN ('a', 'i')
                                      AND d.refobjsubid > 0)
                 UNION ALL
                SELECT 'ROUTINE', p.oid::regprocedure::text
                  FROM pg_proc p
                 WHERE p.pronamespace = 'pgstore'::regnamespace
                   AND pg_get_userbyid(p.proowner) <> heir
                   AND pg_has_role(p.proowner, 'USAGE')
                   AND (p.proowner = me.oid OR coalesce(pg_has_role(p.proowner, members_of, 'USAGE'), false))
                 UNION ALL
                SELECT 'TYPE', t.oid::regtype::text
                  FROM pg_type t
                 WHERE t.typnamespace = 'pgstore'::regnamespace
                   AND t.typtype IN ('d', 'e', 'r')  -- not the row types of tables
                   AND pg_get_userbyid(t.typowner) <> heir
                   AND pg_has_role(t.typowner, 'USAGE')
                   AND (t.typowner = me.oid OR coalesce(pg_has_role(t.typowner, members_of, 'USAGE'), false))
            LOOP
                EXECUTE format('ALTER %s %s OWNER TO %I', object.kind, object.name, heir);
            END LOOP;

            -- Large objects are used with the rights of the functions' owner. Each takes a lock, so no more at once: run it again.
            -- Only what is ours, by its header: not by chunk_is_ours, which sees with the rights of the owner that they come to.
            IF to_regclass('pgstore.large_object_left') IS NOT NULL THEN
                FOR object IN
                    SELECT k.large_object AS name
                      FROM pgstore.chunk k
                      JOIN pg_largeobject_metadata m ON m.oid = k.large_object
                     WHERE pg_get_userbyid(m.lomowner) <> heir
                       AND CASE WHEN pg_has_role(m.lomowner, 'USAGE')
                                THEN lo_get(m.oid, 0, 32) = pgstore.chunk_header(k.store_id, k.id) ELSE false END
                     LIMIT 5000
                LOOP
                    EXECUTE format('ALTER LARGE OBJECT %s OWNER TO %I', object.name, heir);
                END LOOP;
            END IF;

            -- The schema too, where PostgreSQL lets the current role: that takes CREATE on the database. Whose it is may drop all.
            IF NOT is_off
               AND EXISTS (SELECT FROM pg_namespace n
                            WHERE n.nspname = 'pgstore' AND pg_get_userbyid(n.nspowner) <> heir AND pg_has_role(n.nspowner, 'USAGE'))
               AND has_database_privilege(current_database(), 'CREATE') THEN
                EXECUTE format('ALTER SCHEMA pgstore OWNER TO %I', heir);
            END IF;
        END IF;
    END IF;

    IF is_off THEN
        PERFORM set_config('search_path', path, true);
        RETURN;
    END IF;

    IF to_regrole(quote_ident(reader)) IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SCHEMA pgstore TO %I', reader);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA pgstore TO %I', reader);
        EXECUTE format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA pgstore TO %I', reader);
        FOR object IN
            SELECT p.oid::regprocedure::text AS name
              FROM pg_proc p
             WHERE p.pronamespace = 'pgstore'::regnamespace AND p.provolatile <> 'v'
               AND (NOT p.prosecdef OR p.proname IN ('chunk_read', 'chunk_is_ours', 'chunk_length'))  -- which tell of what belongs to a store, and nothing else
        LOOP
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', object.name, reader);
        END LOOP;
        -- Of secrets that they are there. Not from the owner, who would lose it.
        IF to_regclass('pgstore.secret') IS NOT NULL AND reader <> owner
           AND (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = to_regclass('pgstore.secret')) <> reader THEN
            EXECUTE format('REVOKE SELECT ON TABLE pgstore.secret FROM %I', reader);
            EXECUTE format('GRANT SELECT (environment, name, created_at, created_by, updated_at, last_used_at) '
                           'ON TABLE pgstore.secret TO %I', reader);
        END IF;
    END IF;

    IF to_regrole(quote_ident(writer)) IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SCHEMA pgstore TO %I', writer);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA pgstore TO %I', writer);
        EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA pgstore TO %I', writer);
        EXECUTE format('GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgstore TO %I', writer);
        FOR object IN
            SELECT c.oid::regclass::text AS name
              FROM pg_class c
             WHERE c.relnamespace = 'pgstore'::regnamespace
               AND c.relkind IN ('r', 'p')
               AND c.relname NOT IN ('installation', 'schema_revision', 'chunk', 'large_object_left', 'dict_json_name')
        LOOP
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON TABLE %s TO %I', object.name, writer);
        END LOOP;
        -- That a name was of a JSON Dict cannot be unsaid by those against whom it protects.
        IF to_regclass('pgstore.dict_json_name') IS NOT NULL THEN
            EXECUTE format('GRANT INSERT ON TABLE pgstore.dict_json_name TO %I', writer);
        END IF;
        -- Which large object a chunk is, is for functions to say: they read, write and unlink it with their owner's rights. An
        -- older pgstore granted more. Not to the owner, who would lose it.
        IF to_regclass('pgstore.large_object_left') IS NOT NULL AND writer <> owner
           AND (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = 'pgstore.chunk'::regclass) <> writer THEN
            EXECUTE format('REVOKE INSERT, UPDATE ON TABLE pgstore.chunk FROM %I', writer);
            EXECUTE format('GRANT INSERT (store_id, id, data), UPDATE (data), DELETE ON TABLE pgstore.chunk TO %I', writer);
        END IF;
    END IF;

    -- For tables of their own with columns of our types, as CREATE TABLE … AS SELECT makes them.
    FOR object IN
        SELECT t.oid::regtype::text AS name, g.role
          FROM pg_type t
         CROSS JOIN unnest(ARRAY[reader, writer, owner]) AS g (role)
         WHERE t.typnamespace = 'pgstore'::regnamespace
           AND t.typtype IN ('d', 'e', 'r')
           AND to_regrole(quote_ident(g.role)) IS NOT NULL
    LOOP
        EXECUTE format('GRANT USAGE ON TYPE %s TO %I', object.name, object.role);
    END LOOP;
    PERFORM set_config('search_path', path, true);
END
$roles$;
