# Completion of mysocket(1) in fish. Made by docs/manual.py from the table of options.

# __mysocket_in VERB: the verb of this command line; '' for none.
function __mysocket_in
    set -l words (commandline -opc)
    set -l verb ''
    if set -q words[2]; and contains -- $words[2] spool send attach ack forget status stop
        set verb $words[2]
    end
    test "$verb" = "$argv[1]"
end

# __mysocket_at COUNT: so many arguments stand before the cursor that are no options or values of them.
function __mysocket_at
    set -l count 0
    set -l awaited no
    set -l dashes no
    for word in (commandline -opc)[2..-1]
        if test $awaited = yes
            set awaited no
        else if test $dashes = yes; or not string match -qr -- '^-.' $word
            set count (math $count + 1)
        else if test $word = --
            set dashes yes
        else if string match -qr -- '^-[u0JTkvh]*[pwq]$' $word; or contains -- $word --port --peer --bind --allow --input --output --download-dir --max-message --spool --max-spool --wait --linger --metrics --log-format --config
            set awaited yes
        end
    end
    test $count -eq $argv[1]
end

# The value that is being completed, without its option.
function __mysocket_token
    commandline -ct | string replace -r -- '^--[^=]*=' ''
end

function __mysocket_directories
    __fish_complete_directories (__mysocket_token) ''
end

function __mysocket_peers
    __fish_print_hostnames | string replace -r -- '$' ':'
end

# __mysocket_places input|output
function __mysocket_places
    set -l token (__mysocket_token)
    if string match -qr -- '^(follow|unix):' $token
        set -l kind (string replace -r -- ':.*' ':' $token)
        __fish_complete_path (string replace -r -- '^[a-z]*:' '' $token) | string replace -r -- '^' $kind
    else if string match -qr -- '^(udp|tcp):' $token
        if test $argv[1] = output
            __mysocket_peers | string replace -r -- '^' (string replace -r -- ':.*' ':' $token)
        end
    else
        if test $argv[1] = input
            printf '%s\t%s\n' follow: 'a file that grows, as tail -F' udp: 'datagrams' tcp: 'connections' unix: 'a Unix socket' - stdin
        else
            printf '%s\t%s\n' udp: 'datagrams' tcp: 'connections' unix: 'a Unix socket' - stdout
        end
        __fish_complete_path $token
    end
end

complete -c mysocket -f
complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a spool -d 'show how far the streams of a spool have come, and what is in it; while no other process holds it'
complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a send -d 'give the service that runs here a message, or its own input where there is no TEXT; it is sent on from there'
complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a attach -d 'talk through the service that runs here, or read what it has received'
complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a ack -d 'say that a consumer has every message up to a position; the service need keep none of them for it'
complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a forget -d 'remove a consumer, so that nothing is kept for it any more'
complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a status -d 'show how the service that runs here is; exit status 0: linked with its peer, 1: not'
complete -c mysocket -n 'test (count (commandline -opc)) -eq 1' -a stop -d 'end the service that runs here, and wait until it has left'
complete -c mysocket -n '__mysocket_in \'\'; and __mysocket_at 1' -a '(__fish_print_hostnames)' -d host
complete -c mysocket -n '__mysocket_in spool; and __mysocket_at 1' -a '(__mysocket_directories)'
complete -c mysocket -n '__mysocket_in \'\'' -l port -s p -x -d 'listen here: a number (0: any, which is printed), or a Twisted server endpoint string such as unix:/run/it'
complete -c mysocket -n '__mysocket_in \'\'' -l peer -x -a '(__mysocket_peers)' -d 'dial this; [V6]:PORT for an IPv6 address, or a Twisted client endpoint string'
complete -c mysocket -n '__mysocket_in \'\'' -l tcp -d 'use TCP (the default)'
complete -c mysocket -n '__mysocket_in \'\'' -l udp -s u -d 'use UDP; it wins over --tcp'
complete -c mysocket -n '__mysocket_in \'\'' -l use-udp -d 'use UDP; it wins over --tcp'
complete -c mysocket -n '__mysocket_in \'\'' -l raw -d 'plain bytes (TCP) or one message per datagram (UDP), as nc and socat speak; promises no more than these do'
complete -c mysocket -n '__mysocket_in \'\'' -l bind -x -d 'the local address to listen on and to dial from'
complete -c mysocket -n '__mysocket_in \'\'' -l allow -x -d 'addresses that may connect, besides the peer\'s own; may be given again'
complete -c mysocket -n '__mysocket_in \'\'' -l stream -d 'cut the input wherever it comes, for bytes without lines'
complete -c mysocket -n '__mysocket_in \'\'' -l whole -d 'the whole input is one message'
complete -c mysocket -n '__mysocket_in \'\'' -l null -s 0 -d 'messages end in a NUL byte; the default is one line, one message'
complete -c mysocket -n '__mysocket_in \'\'' -l send-only -d 'take nothing from the peer'
complete -c mysocket -n '__mysocket_in \'\'' -l recv-only -d 'send nothing, and never touch stdin'
complete -c mysocket -n '__mysocket_in \'\'' -l input -x -a '(__mysocket_places input)' -d 'take messages from SPEC instead of stdin: a FILE, follow:FILE (as tail -F), udp:PORT, a Twisted server endpoint string (each line of a connection is a message), or - (stdin); may be given again'
complete -c mysocket -n '__mysocket_in \'\'' -l output -x -a '(__mysocket_places output)' -d 'write what is received to SPEC instead of stdout, or of the inbox of a service: a FILE (it is appended to), udp:HOST:PORT, a Twisted client endpoint string, or - (stdout); may be given again, and all of them get it'
complete -c mysocket -n '__mysocket_in \'\'' -l download-dir -x -a '(__mysocket_directories)' -d 'take files that the peer sends, and put them into DIR; never over one that is there'
complete -c mysocket -n '__mysocket_in \'\'' -l json -s J -d 'write one JSON object per message received'
complete -c mysocket -n '__mysocket_in \'\'' -l timestamps -s T -d 'write the local time (RFC 3339) before each line received'
complete -c mysocket -n '__mysocket_in \'\'' -l plain-terminal -d 'at a terminal, leave editing to the kernel: no prompt, marks, status line or commands'
complete -c mysocket -n '__mysocket_in \'\'' -l max-message -x -d 'largest message put together where whole ones are needed (JSON, a terminal, many senders); default 16M'
complete -c mysocket -n '__mysocket_in \'\'' -l spool -x -a '(__mysocket_directories)' -d 'keep in DIR what is not acknowledged, and how far the peer has come: survives crashes and power cuts'
complete -c mysocket -n '__mysocket_in \'\'' -l max-spool -x -d 'largest size of what waits in the spool; then the input waits too; default 1G'
complete -c mysocket -n '__mysocket_in \'\'' -l accept-loss -d 'go on where a spool or an output file was lost or put back, here or at the peer; what is missing stays missing'
complete -c mysocket -n '__mysocket_in \'\'' -l wait -s w -x -d 'give up with status 3 when the peer cannot be reached, or stays away, for so long; default: keep trying'
complete -c mysocket -n '__mysocket_in \'\'' -l linger -s q -x -d 'after the own input is delivered, wait at most so long for the peer\'s'
complete -c mysocket -n '__mysocket_in \'\'' -l keep-open -s k -d 'stay after the peer has finished'
complete -c mysocket -n '__mysocket_in \'\'' -l metrics -x -d 'serve metrics for Prometheus at /metrics, and /healthz, on [ADDR:]PORT; on loopback unless ADDR is given'
complete -c mysocket -n '__mysocket_in \'\'' -l log-format -x -a 'text json' -d 'how events are logged: text, or json (one object a line, with the names and values of what it tells)'
complete -c mysocket -n '__mysocket_in \'\'' -l config -r -F -d 'read options from FILE (TOML, with the long names of the options); the command line wins'
complete -c mysocket -n '__mysocket_in \'\'' -l verbose -s v -d 'say more on stderr'
complete -c mysocket -n '__mysocket_in \'\'' -l quiet -d 'say only errors on stderr'
complete -c mysocket -n '__mysocket_in \'\'' -l help -s h -d 'show this help and exit'
complete -c mysocket -n '__mysocket_in \'\'' -l version -d 'show the version and exit'
complete -c mysocket -n '__mysocket_in \'spool\'' -l messages -d 'list the messages that wait to be sent instead, each behind its position'
complete -c mysocket -n '__mysocket_in \'spool\'' -l inbox -d 'list the messages that its inbox keeps instead, each behind its position there'
complete -c mysocket -n '__mysocket_in \'spool\'' -l json -s J -d 'write one JSON object; with --messages or --inbox one per message'
complete -c mysocket -n '__mysocket_in \'spool\'' -l help -s h -d 'show this help and exit'
complete -c mysocket -n '__mysocket_in \'send\'' -l port -s p -x -d 'the service with this --port; needed where several run'
complete -c mysocket -n '__mysocket_in \'send\'' -l spool -x -a '(__mysocket_directories)' -d 'the service with this --spool'
complete -c mysocket -n '__mysocket_in \'send\'' -l file -r -F -d 'send this file, as one that arrives in the --download-dir of the other side; may be given again'
complete -c mysocket -n '__mysocket_in \'send\'' -l delivered -d 'wait until the peer has acknowledged it; the default is until the service has accepted it'
complete -c mysocket -n '__mysocket_in \'send\'' -l wait -s w -x -d 'give up with status 3 when the service accepts no more for so long; default: wait as long as it takes'
complete -c mysocket -n '__mysocket_in \'send\'' -l stream -d 'cut the input wherever it comes, for bytes without lines'
complete -c mysocket -n '__mysocket_in \'send\'' -l whole -d 'the whole input is one message'
complete -c mysocket -n '__mysocket_in \'send\'' -l null -s 0 -d 'messages end in a NUL byte; the default is one line, one message'
complete -c mysocket -n '__mysocket_in \'send\'' -l verbose -s v -d 'say what was accepted, and by whom'
complete -c mysocket -n '__mysocket_in \'send\'' -l quiet -d 'say only errors on stderr'
complete -c mysocket -n '__mysocket_in \'send\'' -l help -s h -d 'show this help and exit'
complete -c mysocket -n '__mysocket_in \'attach\'' -l port -s p -x -d 'the service with this --port; needed where several run'
complete -c mysocket -n '__mysocket_in \'attach\'' -l spool -x -a '(__mysocket_directories)' -d 'the service with this --spool'
complete -c mysocket -n '__mysocket_in \'attach\'' -l recv-only -d 'only read, and never touch stdin'
complete -c mysocket -n '__mysocket_in \'attach\'' -l json -s J -d 'write one JSON object per message, with its position'
complete -c mysocket -n '__mysocket_in \'attach\'' -l as -x -d 'the consumer: what it has acknowledged it does not get again'
complete -c mysocket -n '__mysocket_in \'attach\'' -l from -x -a 'oldest now' -d 'where a name that is new begins: oldest or now'
complete -c mysocket -n '__mysocket_in \'attach\'' -l ack -x -a 'auto none' -d 'auto: a message is acknowledged when it is written (the default); none: mysocket ack does it'
complete -c mysocket -n '__mysocket_in \'attach\'' -l timestamps -s T -d 'write the local time (RFC 3339) before each line received'
complete -c mysocket -n '__mysocket_in \'attach\'' -l help -s h -d 'show this help and exit'
complete -c mysocket -n '__mysocket_in \'ack\'' -l port -s p -x -d 'the service with this --port; needed where several run'
complete -c mysocket -n '__mysocket_in \'ack\'' -l spool -x -a '(__mysocket_directories)' -d 'the service with this --spool'
complete -c mysocket -n '__mysocket_in \'ack\'' -l help -s h -d 'show this help and exit'
complete -c mysocket -n '__mysocket_in \'forget\'' -l port -s p -x -d 'the service with this --port; needed where several run'
complete -c mysocket -n '__mysocket_in \'forget\'' -l spool -x -a '(__mysocket_directories)' -d 'the service with this --spool'
complete -c mysocket -n '__mysocket_in \'forget\'' -l help -s h -d 'show this help and exit'
complete -c mysocket -n '__mysocket_in \'status\'' -l port -s p -x -d 'the service with this --port; needed where several run'
complete -c mysocket -n '__mysocket_in \'status\'' -l spool -x -a '(__mysocket_directories)' -d 'the service with this --spool'
complete -c mysocket -n '__mysocket_in \'status\'' -l json -s J -d 'write one JSON object'
complete -c mysocket -n '__mysocket_in \'status\'' -l watch -d 'look again every second, until Ctrl-C'
complete -c mysocket -n '__mysocket_in \'status\'' -l help -s h -d 'show this help and exit'
complete -c mysocket -n '__mysocket_in \'stop\'' -l port -s p -x -d 'the service with this --port; needed where several run'
complete -c mysocket -n '__mysocket_in \'stop\'' -l spool -x -a '(__mysocket_directories)' -d 'the service with this --spool'
complete -c mysocket -n '__mysocket_in \'stop\'' -l wait -s w -x -d 'give up with status 3 when it has not left within so long; default 30s'
complete -c mysocket -n '__mysocket_in \'stop\'' -l help -s h -d 'show this help and exit'
