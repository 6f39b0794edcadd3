"""The agents' streams: who may come, what is pushed to whom and when, what they answer.

It writes to the store by the other packages' functions, and never waits for one agent because of another.
"""
