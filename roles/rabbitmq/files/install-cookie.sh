# Runs as RabbitMQ's user, whose home root must not write to. Reads the cookie from stdin. The file appears at once.
# Ends with 3 if a node has run with another cookie, which the other nodes still have.
cd /var/lib/rabbitmq || exit 1
umask 377
new=$(cat)
old=$(cat .erlang.cookie 2>/dev/null)
if [ "$new" = "$old" ]; then
    [ "$(stat -c %a .erlang.cookie)" = 400 ] || { chmod 400 .erlang.cookie && echo changed; }
    exit
fi
[ -e "mnesia/$1" ] && exit 3
rm -f .erlang.cookie.new
printf %s "$new" > .erlang.cookie.new && mv -f .erlang.cookie.new .erlang.cookie && echo changed
