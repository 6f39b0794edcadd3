"""The command line, one file per command. Nouns read, verbs write; every flag's meaning stands beside it."""
