"""Where everything is kept: plain SQL for SQLite and PostgreSQL, the tables, and how long what stays.

It knows tables and transactions, and nothing of what they mean.
"""
