use strict;
use warnings;

print "/* Generated on ", scalar(localtime), ". Do not edit. */\n";
print "static const int squares[] = { ", join(", ", map { $_ * $_ } 0 .. 9), " };\n";
