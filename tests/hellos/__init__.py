"""ClientHellos as test material: made, mutated and captured, and what each of them must be judged to be.

It is pure bytes: nothing here opens a socket, loads a program or reads the C of the kernel's own parser.
"""
