"""Policies that are objects of a Kubernetes cluster: EgressPolicy and ClusterEgressPolicy, the plane's one more source.

It follows the objects, makes of each the document that a file would hold, puts it into the store beside all others, and
writes into the object's status what became of it. It never changes an object's spec, and reads nothing else of the
cluster. What it cannot be sure of changes nothing: a policy goes only when its object is known to be gone.
"""
