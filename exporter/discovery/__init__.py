"""Finds servers that come and go: members of a cluster, records of DNS, instances of a cloud."""
