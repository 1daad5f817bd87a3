"""`tandem bench`: how fast is a gateway, and where does the time go?"""
