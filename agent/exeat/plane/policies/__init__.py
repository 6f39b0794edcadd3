"""What shall hold: documents and their history, which node gets which, and how a change goes out in stages.

It decides nothing about traffic: that is in the documents, which it reads as agents do.
"""
