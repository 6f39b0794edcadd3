"""Who is in a container's cgroup: asked of whoever made the container, over its own socket.

It asks one thing, by the container's id, and never changes anything. What a runtime answers is data, bounded in size
and time; what it cannot say is an error with a sentence, never a guess. CRI, which is gRPC, is in `control/cri.py`.
"""
