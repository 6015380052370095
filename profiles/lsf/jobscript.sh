#!/bin/sh
# properties = {properties}
trap : TERM
{exec_job}
