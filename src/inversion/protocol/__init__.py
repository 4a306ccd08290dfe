"""The wire, sans-IO: no trio, no clock, no os, no logging. Time arrives as an argument."""
