"""A database of everything that is easily captured wrongly, and what is done to it."""

ODD = """
CREATE SCHEMA "户籍 库";
CREATE TYPE "户籍 库".mood AS ENUM ('sad', 'ok', '开心');
CREATE TYPE "户籍 库".place AS (street text, number int);
CREATE TABLE "户籍 库"."居民 ""A"" 1" (
  "编号" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "姓名" text NOT NULL, mood "户籍 库".mood,
  home "户籍 库".place,
  doubled bigint GENERATED ALWAYS AS (2 * "编号") STORED, tags text[], doc jsonb, raw bytea, at timestamptz, n numeric,
  f float8, b bool, c char(5));
CREATE TABLE toasted (id text PRIMARY KEY, big text, small int);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
CREATE TABLE counted (a int, b bool, c char(4), j json);
ALTER TABLE counted REPLICA IDENTITY FULL;
CREATE TABLE measured (at date, value int, PRIMARY KEY (at, value)) PARTITION BY RANGE (at);
CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measured_2026 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE parent (id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE child (id serial PRIMARY KEY, parent int REFERENCES parent, at timestamptz DEFAULT now());
CREATE INDEX child_at ON child (at DESC);
CREATE TABLE emptied (id int PRIMARY KEY);
CREATE TABLE dropped (id int PRIMARY KEY);
CREATE TABLE nothing ();
CREATE TABLE named (id regclass PRIMARY KEY, role regrole);
CREATE SEQUENCE loose START 40 INCREMENT 3;
CREATE VIEW seen AS SELECT id, name FROM parent;
CREATE MATERIALIZED VIEW counted_parents AS SELECT count(*) AS n FROM parent;
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $$;
CREATE TRIGGER loud BEFORE INSERT ON parent FOR EACH ROW EXECUTE FUNCTION loud();
INSERT INTO "户籍 库"."居民 ""A"" 1" ("姓名", mood, home, tags, doc, raw, at, n, f, b, c) VALUES
  ('张三', 'ok', '("长安街, 1",1)', '{"a,b","c\\"d",NULL,"\\\\"}', '{"k": [1, null, "é"]}', '\\x00ff5c0a',
   'infinity', 'NaN', 'Infinity', true, 'ab'),
  (E'tab\\tline\\nback\\\\slash\\rN \\\\N', 'sad', NULL, '{}', 'null', '', '-infinity', 1.50, -0.0, NULL, ''),
  ('', NULL, '(,)', NULL, NULL, NULL, '2026-02-28 12:00+08', 1e-20, 0.1, false, '     ');
INSERT INTO toasted SELECT 'k' || n, repeat('甲' || n, 5000), n FROM generate_series(1, 6) n;
INSERT INTO counted SELECT n % 3, n % 2 = 0, 'x', '{"a": 1}' FROM generate_series(1, 12) n;
INSERT INTO measured SELECT '2025-06-01'::date + 60 * n, n FROM generate_series(1, 8) n;
INSERT INTO parent SELECT n, 'p' || n FROM generate_series(1, 60) n;
INSERT INTO child (parent) SELECT 1 + n % 50 FROM generate_series(1, 200) n;
INSERT INTO emptied SELECT generate_series(1, 100);
INSERT INTO dropped VALUES (1);
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO named VALUES ('parent', 'jinshi'), ('pg_class', NULL);
REFRESH MATERIALIZED VIEW counted_parents;
SELECT nextval('loose'), nextval('loose');
"""

CHANGED = (
    """UPDATE "户籍 库"."居民 ""A"" 1" SET mood = '开心', n = n + 1 WHERE "编号" = 1""",
    "UPDATE toasted SET small = small + 100 WHERE id IN ('k1', 'k2')",  # big stays as it was, and is not sent
    "UPDATE toasted SET id = 'moved' WHERE id = 'k3'",  # nor is it for a new key
    "DELETE FROM toasted WHERE id = 'k4'; INSERT INTO toasted VALUES ('k4', 'short', NULL)",
    "DELETE FROM counted WHERE ctid IN (SELECT ctid FROM counted WHERE a = 1 LIMIT 1); "
    "UPDATE counted SET c = 'yy' WHERE a = 2; "
    "INSERT INTO counted VALUES (0, true, 'x', '{\"a\": 1}'), (NULL, NULL, NULL, NULL)",
    "UPDATE measured SET at = at + 365 WHERE value = 1",  # into another partition
    "BEGIN; INSERT INTO emptied VALUES (1000); TRUNCATE emptied; INSERT INTO emptied VALUES (7), (8); COMMIT",
    "BEGIN; INSERT INTO parent VALUES (100, 'kept'); SAVEPOINT s; INSERT INTO parent VALUES (101, 'undone'); "
    "ROLLBACK TO s; UPDATE parent SET id = 102 WHERE id = 100; COMMIT",
    "BEGIN; UPDATE parent SET id = -1 WHERE id = 60; UPDATE parent SET id = 60 WHERE id = 102; COMMIT",
    "BEGIN; INSERT INTO parent VALUES (999, 'never'); ROLLBACK",
    "DELETE FROM child WHERE id % 7 = 0; SELECT nextval('loose')",
    "INSERT INTO nothing DEFAULT VALUES",
    "INSERT INTO named VALUES ('toasted', 'pg_monitor'); DELETE FROM named WHERE id = 'parent'::regclass",
)
REDEFINED = (
    "ALTER TABLE parent ADD COLUMN made timestamptz DEFAULT clock_timestamp(), ADD COLUMN fixed int DEFAULT 7",
    "ALTER TABLE toasted ALTER COLUMN small TYPE text USING 'was ' || small",
    "ALTER TABLE emptied RENAME TO refilled",
    'ALTER TABLE refilled RENAME COLUMN id TO "新 id"',
    "INSERT INTO refilled VALUES (9)",
    "DROP TABLE dropped",
    "CREATE TABLE fresh (id int PRIMARY KEY, text text); INSERT INTO fresh VALUES (1, 'a'), (2, 'b'); "
    "UPDATE fresh SET text = 'c' WHERE id = 2",
    "ALTER TYPE \"户籍 库\".mood RENAME VALUE 'sad' TO 'blue'",
    "CREATE TABLE measured_2027 PARTITION OF measured FOR VALUES FROM ('2027-01-01') TO ('2028-01-01'); "
    "INSERT INTO measured VALUES ('2027-05-05', 1)",
    "GRANT SELECT ON parent TO PUBLIC; COMMENT ON TABLE parent IS 'of children'; CREATE INDEX ON parent (fixed)",
)  # fmt: skip
