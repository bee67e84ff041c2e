"""The sample region: an invented landscape with photovoltaics, rendered as VHR and Sentinel-2-like imagery."""
