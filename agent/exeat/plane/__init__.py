"""The reference control plane: what shall hold on which node, who has it, and what was judged there.

It keeps policies and their history, decides by labels which node gets what, rolls changes out in stages, collects
verdicts, and shows all of it to people and programs. It speaks the protocol of proto/exeat/v1/plane.proto through
`control`, and SQL through `database` only. It never decides about a connection, and no agent needs it to enforce.
"""
