# Makes the configuration of the package from ../demo.toml, so that each key is explained in one place: what is there for the demo alone
# goes, and what only the operator knows is left for him to say. `.ci/package` checks what comes out.

1,4c\
# The configuration of the server. Two values are yours to set: `zone`, and `public` in [relay]. `causeway check FILE` says what is\
# wrong with it, and `systemctl enable --now causeway` starts it then.\
# What stands behind a # is the default, or an example where there is none.\
# After a change `systemctl reload causeway`: leave, drain and [relay.limits] are in force at once, and the log names what waits for a restart.

s/^zone = "nas.localhost" */zone = ""                       /
s/^# state = "\/var\/lib\/causeway" .*/state = "\/var\/lib\/causeway"     # what must last/
s/^front = "127.0.0.1:8443" */front = "[::]:443"              /
s/^http = "127.0.0.1:8080" */http = "[::]:80"                /
s/^drain = "2s" */# drain = "30s"                 /
s/default 30s$/the service manager waits five minutes/
s/^listen = "127.0.0.1:5300" */listen = "[::]:53"              /
s/^dot = "127.0.0.1:8853" */# dot = "[::]:853"              /
s/^connections_per_second_per_address = .*/# connections_per_second_per_address = 500 # new ones, after those of four seconds at once/
s/^handshakes_per_second_per_address = .*/# handshakes_per_second_per_address = 500  # of agents, likewise/
s/^private_addresses = true .*/# private_addresses = true      # a device's name may lead to a private address: where nobody from outside asks/

# The demo's own record is an example here.
s/Causeway demo/what the record says/
/^\[\[ddns.record\]\]/,/^value/s/^/# /
