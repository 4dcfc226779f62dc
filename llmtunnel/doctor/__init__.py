"""Check whether a tunnel will connect from here: a table for people, and the path to expect."""
