from twisted.application.service import ServiceMaker

mysocket = ServiceMaker(
    "MySocket",
    "mysocket.tap",
    "Messages between machines, each of them whole, in order, exactly once.",
    "mysocket",
)
