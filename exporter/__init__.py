"""pgvigil, the PostgreSQL exporter for Prometheus: the map of the package, in the order data flows.

errors      every exception this package raises, the tree drawn on top
documents   YAML that people write, strictly read
settings    every setting with default and meaning; alone in reading environment and configuration file
queries     postgres_exporter's custom queries -> collector files of our own format (pure)
catalog     the declarative format of collectors, and load(folders)
collectors/ the built-in collectors, one YAML file a subject; README.md is the generated metrics reference
plan        catalog x server facts -> jobs, or the reason why a collector is skipped (pure)
databases   which databases are looked into, by patterns (pure)
dsn         libpq's connection strings -> what the driver takes (pure)
session     one connection to a server of any kind: asks, and knows when no answer comes
postgres    alone in talking to PostgreSQL: connect with guard rails, facts, fetch
shown       what PgBouncer's console shows -> the rows of a collector's SQL (pure)
pgbouncer   alone in talking to PgBouncer, with a driver of its own
sessions    the connections of one target: some kept, some borrowed, never more than the budget
names       oids -> names of databases, roles and relations, cached
samples     rows -> samples, column by column (pure)
ledger      rows that come and go -> counters that add up
costs       what our own statements cost the server, as pg_stat_statements counts it
own         the exporter's own metrics, declared with the same Metric
statements  the ledger's members with their normalised texts, for people
bounds      a page's samples at most (pure)
attempts    what the runs of one job came to: last good result, failures and back-off, cost
pacing      how often each job may run to keep within the budget of cost, and how seldom at most (pure)
rotation    which database is visited next, in a round that is spread evenly over its time
sampler     what sessions wait for between scrapes -> counters of session-seconds
incidents   the flight recorder: snapshots of what was wrong, in memory
watch       the look between scrapes that feeds both
health      whether a server is up, and why not
facts       what is known of a server, learned anew when it grows old, and the plan that follows
scrape      one scrape in order; deadline, last good results, shared runs
render      samples -> bytes in the format the client asked for (pure)
page        one page from the blocks of all collectors, each rendered once
app         the HTTP routes, nothing else
serve       puts the parts together and runs them
reference   catalog -> Markdown (pure)
rules       the alert rules with a person's values in them (pure, but for reading them)
dashboards  the Grafana dashboards with a person's links in them (pure, but for reading and writing them)
compatibility  what postgres_exporter calls things, what we call them, where they differ
findings    what a server lacks for us to work well, and the SQL that mends it (pure)
check       asks a server for its findings and tries every collector
grants      what creates a least-privilege role (pure)
logs        how log lines look
demo/       an embedded PostgreSQL with a workload that goes wrong, for `pgvigil demo`
"""

__version__ = "0.1.0"
