-- For trying out only: in earnest, `pgvigil grants` prints what the role needs.
CREATE EXTENSION pg_stat_statements;
CREATE ROLE pgvigil LOGIN PASSWORD 'pgvigil';
GRANT pg_monitor TO pgvigil;
