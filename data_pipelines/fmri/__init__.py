"""fMRI, in regions or as images, into record stores."""
