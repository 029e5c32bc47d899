"""Features of stimuli, from a table of what happened when, into record stores."""
