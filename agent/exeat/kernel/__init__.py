"""The only package that knows BPF: loads and pins the programs, writes the tables, reads verdicts, cuts sockets."""
