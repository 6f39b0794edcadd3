"""The only package that speaks DNS: its bytes, the gate that answers, the upstreams it asks. Knows no kernel."""
