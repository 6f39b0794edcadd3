"""The agent's local API, both ends of it: gRPC on a unix socket. The only package that imports grpc.

`server.serve` puts the agent's operations behind a door that knows who asks; `client.connect` is how commands ask. It
converts and carries, and decides nothing about workloads or policies.
"""
