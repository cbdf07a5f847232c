"""The workloads: each fills a database, drives a server and returns figures."""
