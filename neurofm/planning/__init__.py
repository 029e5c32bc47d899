"""What a run needs of an accelerator, before there is one: `plan.plan`."""
