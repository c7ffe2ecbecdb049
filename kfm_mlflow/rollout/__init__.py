"""The journey of a release through traffic: plan, step, analysis, controller."""
