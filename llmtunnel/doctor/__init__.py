"""Why a tunnel will or will not connect from here: one table for a person, and what path to expect."""
