"""The service: what `mmq up` keeps running and `mmq down` stops. Knows no job; decides nothing."""
