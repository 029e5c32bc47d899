"""EEG and MEG recordings of any format into record stores."""
