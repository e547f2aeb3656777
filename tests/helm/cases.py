"""Values for the chart: each feature, and each with those it meets."""

from typing import Any

Values = dict[str, Any]

SHOP: Values = {"name": "shop", "host": "shop-db", "passwordSecret": {"name": "shop"}}
BLOG: Values = {
    "name": "blog",
    "dsnSecret": {"name": "blog"},
    "excludeDatabases": ["old_*", "test"],
    "includeTables": ["blog.*"],
    "excludeTables": ["tmp_*"],
    "statementsExcludeUsers": ["batch_*"],
    "statementsExcludeDatabases": ["queue"],
}
POOL: Values = {"name": "pool", "kind": "pgbouncer", "host": "pool", "passwordSecret": {"name": "pool"}}
FULL: Values = {
    "name": "Full.1",
    "host": "10.0.0.1",
    "port": 6432,
    "database": "it's",
    "user": "o\\neil",
    "sslmode": "verify-ca",
    "ca": {"configMapName": "authority", "key": "root.pem"},
    "certificateSecret": {"name": "client", "certKey": "cert", "keyKey": "key"},
    "passwordSecret": {"name": "full", "key": "word"},
    "parameters": {"target_session_attrs": "primary"},
}
FLEET: list[Values] = [{"name": f"db{i}", "host": f"db{i}.example.com"} for i in range(12)]

COLLECTOR: Values = {
    "name": "own_tables",
    "help": "Tables.",
    "sql": {"13": "SELECT count(*) AS tables FROM pg_catalog.pg_class"},
    "metrics": [{"name": "pg_own_tables", "type": "gauge", "help": "Tables.", "column": "tables"}],
}

RULES: Values = {
    "runbookBaseUrl": "https://wiki.example.com/pg/",
    "dashboardBaseUrl": "",
    "labels": {"cluster": 'a "b" <c> \\ $1 é', "team": "databases"},
    "disable": ["PostgreSQLPasswordExpires", "PostgreSQLArchiveFailing"],
    "overrides": {
        "PostgreSQLConnectionsNearlyUsed": {"ratio": 0.95, "for": "10m", "severity": "info"},
        "PostgreSQLConnectionsAtLimit": {"for": "1m", "ratio": 0.98},
        "PostgreSQLConnectionsRunningOut": {"horizon_seconds": 7200, "short_horizon_seconds": 1000000},
    },
}

EVERYTHING: Values = {
    "targets": [SHOP, BLOG, FULL, POOL],
    "targetDefaults": {"ca": {"secretName": "authority"}, "user": "monitor"},
    "settings": {
        "max_samples": 1000000,
        "disable": ["table_bloat"],
        "collectors": {"table_sizes": {"limit": 20}},
        "cost_budget": 0.02,
        "log_format": "json",
    },
    "ownCollectors": {"own.yml": COLLECTOR, "text.yaml": "# none\n"},
    "monitor": {
        "kind": "ServiceMonitor",
        "namespace": "monitoring",
        "labels": {"release": "prometheus"},
        "annotations": {"a": "b"},
        "relabelings": [{"targetLabel": "cluster", "replacement": "eu-1"}],
        "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "pg_own_.*"}],
        "spec": {"sampleLimit": 100000},
    },
    "prometheusRule": {
        "enabled": True,
        "namespace": "monitoring",
        "labels": {"release": "prometheus"},
        "annotations": {"a": "b"},
        "values": RULES,
    },
    "alertmanagerConfig": {
        "enabled": True,
        "namespace": "monitoring",
        "labels": {"alertmanager": "main"},
        "annotations": {"a": "b"},
        "pagerdutySecret": {"name": "pagerduty", "pageKey": "high", "ticketKey": "low"},
        "deadMansSwitchSecret": {"name": "switch", "key": "address"},
        "incidentsUrl": "https://pgvigil.example.com/incidents",
    },
    "dashboards": {
        "enabled": True,
        "namespace": "grafana",
        "labels": {"grafana_dashboard": "yes"},
        "grafanaOperator": {"enabled": True, "labels": {"a": "b"}, "allowCrossNamespaceImport": True},
    },
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "dnsTo": [{"namespaceSelector": {}}],
        "ports": [5433],
        "extraIngress": [{"from": [{"podSelector": {}}]}],
        "extraEgress": [{"ports": [{"port": 443}]}],
    },
    "image": {
        "registry": "registry.example.com",
        "digest": f"sha256:{'0' * 64}",
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "registry"}],
    },
    "resources": {"requests": {"cpu": 1, "memory": "1Gi", "ephemeral-storage": "10Mi"}},
    "service": {
        "type": "NodePort",
        "port": 80,
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
    },
    "listenHost": "[::]",
    "serviceAccount": {"name": "watcher", "annotations": {"a": "b"}},
    "annotations": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
    "commonLabels": {"everywhere": "yes"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "databases", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": "high",
    "runtimeClassName": "gvisor",
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db"]}],
    "dnsPolicy": "ClusterFirst",
    "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
    "extraEnv": [
        {"name": "PGSSLNEGOTIATION", "value": "direct"},
        {"name": "PGVIGIL_PASSWORD_FILE", "value": "/more/password"},
        {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "common", "key": "password"}}},
    ],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "initContainers": [{"name": "first", "image": "busybox:1"}],
    "extraContainers": [{"name": "beside", "image": "busybox:1"}],
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"a": "{{ $labels.job }}"}}
    ],
    "nameOverride": "pg",
    "namespaceOverride": "databases",
}

MATRIX: dict[str, Values] = {
    "as it comes": {},
    "one target": {"targets": [SHOP]},
    "one PgBouncer": {"targets": [POOL]},
    "secrets that are there": {"targets": [SHOP, BLOG, FULL], "targetDefaults": {"passwordSecret": {"name": "all"}}},
    "annotations": {"targets": [SHOP], "monitor": {"kind": "annotations"}},
    "rules and nothing else": {"deploy": False, "prometheusRule": {"enabled": True}},
    "rules with values": {"prometheusRule": {"enabled": True, "values": RULES}},
    "routing": {"alertmanagerConfig": {"enabled": True, "pagerdutySecret": {"name": "pagerduty"}}},
    "dashboards": {"dashboards": {"enabled": True, "grafanaOperator": {"enabled": True}}},
    "network policy": {"targets": [SHOP], "networkPolicy": {"enabled": True}},
    "everything": EVERYTHING,
    "everything, in shards": EVERYTHING | {"shards": 3, "targets": FLEET},
    "more shards than targets": {"shards": 5, "targets": [SHOP]},
    **{
        f"{kind}, {name}": {"monitor": {"kind": kind}} | values
        for kind in ("ServiceMonitor", "PodMonitor", "Probe", "ScrapeConfig")
        for name, values in (
            ("one target", {"targets": [SHOP]}),
            ("several", {"targets": [SHOP, BLOG]}),
            ("in shards", {"targets": FLEET, "shards": 4}),
        )
    },
}
"""Everything that has to render."""
