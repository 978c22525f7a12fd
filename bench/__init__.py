"""MySocket beside nc, socat and ncat: `python -m bench` prints one table. No test depends on a time measured here."""
