"""Soil moisture, runoff and evapotranspiration from precipitation and temperature."""
